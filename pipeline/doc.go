// Package pipeline is the vocabulary of Millstream: what an event, an identifier, a profile and a message are, and the
// contracts between the engine and what it runs (Stage, Sink, Source, Plan). It imports nothing else of the module.
//
// The words are those of docs/architecture.md; names that leave the process (topics, headers, columns, payload fields) are
// listed in docs/reference.
package pipeline
