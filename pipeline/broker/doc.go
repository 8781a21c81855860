// Package broker puts Watermill on Kafka: a subscriber whose message is a batch of one partition, a transactional publisher
// for the worker of one partition, an idempotent publisher for sources, group membership, topics, and the embedded broker
// for machines without Kafka. It is the only package that knows the client library (sarama).
//
// The parts and the order in which a worker uses them:
//
//	Dial          connections for metadata and administration, shared by everything below
//	EnsureTopics  what is missing is created
//	Join          membership alone: which partitions are ours; no record travels here
//	  OpenTransactions   at assignment: ends a predecessor's transaction and fences it
//	  Committed          only then: the position that decided transactions left
//	  ReadToEnd          the changelog up to its last stable offset
//	  NewSubscriber      records, one Watermill message per batch
//	  Begin, Send, Commit
//
// Membership, records and each transactional producer have connections of their own: Kafka serves one request of a
// connection at a time and holds JoinGroup until all members have joined, so a shared connection stops every partition of a
// worker at each rebalance.
package broker
