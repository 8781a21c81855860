package state

import (
	"errors"
	"fmt"
)

var (
	// ErrLocked says that another store, mostly another process, has the folder open.
	ErrLocked = errors.New("state folder is in use by another process")
	// ErrForeign says that the folder holds files that no store wrote. Nothing in it was touched.
	ErrForeign = errors.New("folder holds files that are not a state store")
	// ErrDamaged says that files of the store are missing or torn. Removing the folder is safe: the state is rebuilt from
	// the changelog.
	ErrDamaged = errors.New("state store is damaged")
	// ErrOwned says that the partition already has an owner in this process.
	ErrOwned = errors.New("partition already has an owner")
	// ErrInUse says that a store cannot be closed because a partition of it still has an owner.
	ErrInUse = errors.New("partition is still in use")
	// ErrClosed says that the store, partition or transaction has ended.
	ErrClosed = errors.New("already closed")
	// ErrMalformed says that bytes do not have the documented layout.
	ErrMalformed = errors.New("malformed bytes")
	// ErrRetention says that an operation does not exist for the changelog that the store keeps: folded values need a
	// compacted changelog, ranges can only be deleted where the changelog is deleted by time.
	ErrRetention = errors.New("not possible with this changelog")
)

// NewerFormatError says that something was written by a later version of Millstream than this one.
type NewerFormatError struct {
	What      string // what was read, such as "position"
	Format    int    // the format found
	Supported int    // the newest format that this version reads
}

func (e *NewerFormatError) Error() string {
	return fmt.Sprintf("%s has format %d, this version reads up to %d: run the version that wrote it, or a later one",
		e.What, e.Format, e.Supported)
}
