// Package state keeps what the stages of a task remember: one Pebble database per task and process, in which every
// partition has its own keys, and whose every commit is also a set of records for the task's changelog topic.
//
//	Store ── Partition (one owner) ── Transaction (one at a time) ── Stage(code): pipeline.Tx
//
// A transaction lives in memory, in an overlay over Pebble. Changelog seals it and hands out the records to produce in the
// Kafka transaction; Commit, called once Kafka has committed, writes one Pebble batch that also holds the position; Discard
// forgets everything. So state and position never part, and no commit waits for the disk: Kafka is the durable log, and
// what Pebble lost is read again from there (Apply, Flush).
//
// A folded value (pipeline.Folded) is written as small deltas with a full state every 32 updates. Its decoded object lives
// in the overlay while a transaction runs and in a cache of bounded size between transactions.
package state
