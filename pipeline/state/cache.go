package state

import (
	"encoding/binary"
	"unsafe"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/millstream-io/millstream/pipeline"
)

// decoded is a folded value in memory. Between transactions the cache holds it; a transaction that touches it holds it too
// and changes it in place. Only the owner of its partition reads or writes its fields.
type decoded struct {
	key    string // epoch, stage and key
	object pipeline.Folded
	number uint64 // of the last update folded into object
	cost   int64  // in bytes, as the cache was last told
	stale  bool   // object holds what was not committed: never to be used again
}

// decodedOverhead is what an entry costs beside the object and its key: 297 bytes measured with ristretto 2.4.2.
const decodedOverhead = 300

// decodedCache keeps decoded values of all partitions up to a number of bytes.
//
// Ristretto queues a Set and may apply it after a later Del, so a cache on its own can serve what has been replaced. Two
// rules keep that out: an object is in the transaction's overlay, which is asked first, until wait has returned; and an
// object that must not be served is marked stale rather than removed.
type decodedCache struct {
	cache *ristretto.Cache[[]byte, *decoded]
}

func newDecodedCache(bytes int64) (*decodedCache, error) {
	cache, err := ristretto.NewCache(&ristretto.Config[[]byte, *decoded]{
		NumCounters:        max(bytes/100, 1000), // ten for each object of 1 KiB
		MaxCost:            bytes,
		BufferItems:        64,
		IgnoreInternalCost: true, // decodedOverhead holds it
	})
	if err != nil {
		return nil, err
	}
	return &decodedCache{cache: cache}, nil
}

// get returns the decoded value under key, nil if it is not there.
func (c *decodedCache) get(key []byte) *decoded {
	d, ok := c.cache.Get(key)
	if !ok || d.stale || d.key != string(key) {
		return nil
	}
	return d
}

// set hands a decoded value over and says whether wait must follow. A value that came from the cache is told again only when
// its size has changed by an eighth; if the cache has dropped it meanwhile, the next transaction decodes it.
func (c *decodedCache) set(d *decoded) bool {
	cost := int64(d.object.Size() + len(d.key) + decodedOverhead)
	if d.cost-d.cost/8 <= cost && cost <= d.cost+d.cost/8 {
		return false
	}
	d.cost = cost
	c.cache.Set(unsafe.Slice(unsafe.StringData(d.key), len(d.key)), d, cost) // hashes the key and forgets it
	return true
}

// wait returns when everything that was set is there, or was refused.
func (c *decodedCache) wait() { c.cache.Wait() }

func (c *decodedCache) close() { c.cache.Close() }

// appendDecodedKey appends the key of a decoded value. The epoch is different for every owner of a partition: what an
// earlier owner left behind has keys that nobody asks for.
func appendDecodedKey(dst []byte, epoch uint64, stage byte, key []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, epoch)
	dst = append(dst, stage)
	return append(dst, key...)
}
