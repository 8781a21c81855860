package links

import (
	"encoding/binary"
	"sync"

	"github.com/millstream-io/millstream/pipeline"
)

// cache keeps what was last read of identifiers and links in fixed arrays, an entry at the place that its id says: two ids of
// one place take turns. An array never grows and is never wrong, where a cache that queues its writes may be: only the
// replica writes, and it forgets what an operation touched before readers see the operation.
type cache struct {
	locks  [256]sync.Mutex
	places [cacheSize]place
	links  [cacheSize]pipeline.Link
}

const cacheSize = 1 << 18 // 48 and 32 bytes each: 20 MiB, of which the system gives what is touched

// place is what is known of an identifier.
type place struct {
	id      pipeline.ID
	profile pipeline.ID
	changed uint64 // offset of the last change of the profile's members
	flags   byte
}

func (p *place) unusable() bool  { return p.flags&(flagBlocked|flagQuarantined) != 0 }
func (p *place) ambiguous() bool { return p.flags&flagAmbiguous != 0 }

// erased tells that profile is not the profile but the successor.
func (p *place) erased() bool { return p.flags&flagErased != 0 }

func newCache() *cache { return &cache{} }

// slot is a place in the arrays. Identifier ids are keyed hashes behind their first byte.
func slot(id pipeline.ID) uint32 { return binary.LittleEndian.Uint32(id[1:]) % cacheSize }

func linkSlot(l pipeline.Link) uint32 {
	return (binary.LittleEndian.Uint32(l.Strong[1:]) ^ binary.LittleEndian.Uint32(l.Weak[9:])) % cacheSize
}

func (c *cache) get(id pipeline.ID) (place, bool) {
	i := slot(id)
	lock := &c.locks[i%256]
	lock.Lock()
	p := c.places[i]
	lock.Unlock()
	return p, p.id == id
}

func (c *cache) put(p place) {
	i := slot(p.id)
	lock := &c.locks[i%256]
	lock.Lock()
	c.places[i] = p
	lock.Unlock()
}

func (c *cache) forget(id pipeline.ID) {
	i := slot(id)
	lock := &c.locks[i%256]
	lock.Lock()
	if c.places[i].id == id {
		c.places[i] = place{}
	}
	lock.Unlock()
}

func (c *cache) hasLink(l pipeline.Link) bool {
	i := linkSlot(l)
	lock := &c.locks[i%256]
	lock.Lock()
	defer lock.Unlock()
	return c.links[i] == l
}

func (c *cache) putLink(l pipeline.Link) {
	i := linkSlot(l)
	lock := &c.locks[i%256]
	lock.Lock()
	c.links[i] = l
	lock.Unlock()
}

func (c *cache) clear() {
	clear(c.places[:])
	clear(c.links[:])
}
