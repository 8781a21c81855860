package dedup

import (
	"encoding/binary"
	"math/bits"

	"github.com/millstream-io/millstream/pipeline"
)

// filter tells of one time bucket whether it may have an id: "no" is certain, "yes" is wrong about once in a thousand times
// while the filter is not full.
//
// It is a split block Bloom filter (Putze, Sanders, Singler 2007; the form of Apache Parquet's BloomFilter.md): an id
// touches one block of 32 bytes, so a question costs one cache miss. Ids are hashes already.
type filter struct {
	end    int64 // of the bucket, Unix seconds, exclusive
	count  int   // ids added
	size   int   // ids that it is made for
	blocks [][8]uint32
}

const (
	bitsPerID     = 16
	minFilterSize = 16 << 10 // 32 KiB
)

func newFilter(end int64, size int) *filter {
	size = max(size, minFilterSize)
	return &filter{end: end, size: size, blocks: make([][8]uint32, size*bitsPerID/256)}
}

func (f *filter) full() bool { return f.count >= f.size }

func (f *filter) add(key [keyBytes]byte) {
	block, bits := f.place(key)
	for i, salt := range salts {
		block[i] |= 1 << (bits * salt >> 27)
	}
	f.count++
}

func (f *filter) mayHave(key [keyBytes]byte) bool {
	block, bits := f.place(key)
	for i, salt := range salts {
		if block[i]&(1<<(bits*salt>>27)) == 0 {
			return false
		}
	}
	return true
}

// place is the block of an id, and the 32 bits from which its bit in each word of the block comes.
func (f *filter) place(key [keyBytes]byte) (*[8]uint32, uint32) {
	hi, _ := bits.Mul64(binary.BigEndian.Uint64(key[:]), uint64(len(f.blocks)))
	return &f.blocks[hi], binary.BigEndian.Uint32(key[8:])
}

// salts are those of Parquet.
var salts = [8]uint32{0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d, 0x705495c7, 0x2df1424b, 0x9efc4947, 0x5c6bfb31}

// grow makes a full filter twice as large; the ids come from the state. It happens while a partition gets busier: a new
// bucket starts as large as the one before.
func (f *filter) grow(tx pipeline.Tx) error {
	larger := newFilter(f.end, 2*f.size)
	prefix := binary.BigEndian.AppendUint32(nil, uint32(f.end))
	err := tx.Scan(prefix, func(key, _ []byte) error {
		if len(key) > len(prefix) {
			larger.add([keyBytes]byte(key[len(prefix):]))
		}
		return nil
	})
	if err == nil {
		*f = *larger
	}
	return err
}
