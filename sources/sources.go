// Package sources lists the kinds of sources that a pipeline can name.
package sources

import (
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/file"
	"github.com/millstream-io/millstream/sources/http"
	"github.com/millstream-io/millstream/sources/kafka"
)

// Kinds are the sources that the YAML knows.
var Kinds = []pipeline.SourceKind{http.Kind, file.Kind, kafka.Kind}
