package engine

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/state"
)

// algorithm numbers the meaning of stored state; a worker refuses state of a newer one.
const algorithm = 1

// The metadata of a worker's group offset is "1 <transaction number> <stream time>": which transaction committed it tells
// a worker whether its own undecided transaction is the one, also when two in a row leave the offset where it is (retries);
// the stream time tells other tasks how far this partition is.
const metadataFormat = "1"

// groupPosition is a state position as the group's offset and metadata.
func groupPosition(p state.Position) broker.Position {
	return broker.Position{Offset: p.Offsets, Metadata: fmt.Sprintf("%s %d %d", metadataFormat, p.Number, p.StreamTime)}
}

// transactionNumber reads the number from the metadata, 0 if there is none: the first transaction has 1.
func transactionNumber(metadata string) uint64 {
	f := strings.Fields(metadata)
	if len(f) != 3 || f[0] != metadataFormat {
		return 0
	}
	n, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return n
}
