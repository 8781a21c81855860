// Package chdb is the embedded ClickHouse: the engine library libchdb in a child process, behind an HTTP front door that
// clickhouse-go, curl and @clickhouse/client take for a ClickHouse server.
//
//	parent                                child (same executable, hidden subcommand)
//	Start ── configuration on stdin ───▶  ChildMain
//	  │ └─── listening socket ─────────▶   door   HTTP: users, settings, sessions, formats, compression
//	  └ restarts it when it dies           engine statements, one connection each
//	                                       library purego binding of libchdb
//
// A child, because a fault inside a C++ library ends its process without a trace, and because an analyst's query may use
// more memory than the pipeline can spare. The parent keeps the listening socket, so a restart loses no connection attempt.
//
// Fetch brings the library to a cache folder, Find says which ClickHouse to use, Start runs it.
package chdb

// User is the only user of an embedded ClickHouse.
const User = "millstream"

// DefaultDatabase is the database of requests that name none. It is an ordinary Atomic database: the library's own
// "default" shows files of the working directory as tables.
const DefaultDatabase = "millstream"
