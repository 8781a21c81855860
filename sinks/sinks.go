// Package sinks lists the sinks that a pipeline can name.
package sinks

import (
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks/clickhouse"
	"github.com/millstream-io/millstream/sinks/file"
	"github.com/millstream-io/millstream/sinks/kafka"
	"github.com/millstream-io/millstream/sinks/webhook"
)

// Kinds are the sink kinds, in the order of the reference.
var Kinds = []pipeline.SinkKind{
	clickhouse.Kind,
	webhook.Kind,
	kafka.Kind,
	file.Kind,
}
