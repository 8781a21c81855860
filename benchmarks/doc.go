// Package benchmarks measures Millstream from end to end, and next to each figure, in the same run, the ceiling it is to be
// compared with. README.md says how to run it and how to read it.
package benchmarks
