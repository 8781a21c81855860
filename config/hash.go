package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strconv"
)

// hash is the 64-bit hash of what the configuration says: comments, the order of keys, quoting and other ways of writing a
// value do not change it, nor does another secret. It is the start of SHA-256 over a canonical form.
func hash(root *node) uint64 {
	sum := sha256.Sum256(appendCanonical(nil, root))
	return binary.BigEndian.Uint64(sum[:])
}

func appendCanonical(b []byte, n *node) []byte {
	switch n.kind {
	case scalar:
		return strconv.AppendQuote(b, n.canon)
	case sequence:
		b = append(b, '[')
		for _, item := range n.items {
			b = append(appendCanonical(b, item), ',')
		}
		return append(b, ']')
	}
	pairs := slices.Clone(n.pairs) // of null: none, it says the same as {}
	slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(a.key, b.key) })
	b = append(b, '{')
	for _, p := range pairs {
		b = append(strconv.AppendQuote(b, p.key), ':')
		b = append(appendCanonical(b, p.value), ',')
	}
	return append(b, '}')
}
