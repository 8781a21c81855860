// Package links is the link log's meaning: which identifiers are one person.
//
// The log (topic `links`, one partition, kept for ever) holds operations: that two identifiers belong together, that they do
// not, that one is to be ignored, that a person is to be forgotten. Every process applies it in order to a replica of its
// own. Applying is deterministic, so replicas at the same offset are equal, and a lost one is made again from the log.
//
// Each operation leaves an Outcome beside the replica: which identifiers went from which profile to which, or why nothing
// was linked. The regroup task tells the profiles, and analysts, what the outcomes say.
//
//	operation.go  what stands in the log
//	rules.go      order and limits of the types, from operation 0
//	replica.go    the store: open, resolve
//	apply.go      one operation after the other
//	derive.go     people made anew from what is linked, after something was taken back
//	erase.go      people forgotten
//	graph.go      the reads and writes of these two
//	outcome.go    what an operation did
package links
