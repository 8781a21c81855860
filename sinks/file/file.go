// Package file is the sink that writes messages to files: one line of JSON each, one file per partition, each message
// exactly once, also across kill -9.
//
// The length of a file up to which it counts stands in the partition's store and is committed with the input offsets; what
// is beyond it belongs to a write that was not committed and is cut off before the next. So the files must be reachable
// under the same path by every process of the pipeline, and nobody else may write to them. Reading, also while the pipeline
// runs, is fine: what a reader sees beyond the committed length may be written again, with the same bytes.
package file

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/millstream-io/millstream/pipeline"
)

// Config is what stands under `file` in the YAML.
type Config struct {
	// Path is the folder; it is made if needed (0700). A relative path starts at the working directory of the process.
	Path string `yaml:"path"`
	// Format is ndjson: one message per line.
	Format string `yaml:"format"`
}

// Kind is the sink kind `file`.
var Kind = pipeline.SinkKind{
	Name:    "file",
	Summary: "writes messages to a file per partition, one line of JSON each, exactly once",
	Topics:  []string{"changes"},
	Config:  func() any { return &Config{Format: "ndjson"} },
	Build:   build,
}

func build(name string, config any, env *pipeline.Env) (func(context.Context, pipeline.Deps) (any, error), []pipeline.Problem) {
	c := config.(*Config)
	var problems []pipeline.Problem
	if c.Path == "" {
		problems = append(problems, pipeline.Problemf([]string{"path"}, "path is missing: write the folder for the files"))
	}
	if c.Format != "ndjson" {
		problems = append(problems, pipeline.Problemf([]string{"format"}, "format %q is not known: ndjson is the only one", c.Format))
	}
	if problems != nil {
		return nil, problems
	}
	owner := env.Pipeline + "/" + name
	return func(context.Context, pipeline.Deps) (any, error) {
		s := &sink{folder: c.Path}
		if err := s.claim(owner); err != nil {
			return nil, fmt.Errorf("open file sink %s: %w", name, err)
		}
		return s, nil
	}, nil
}

// sink keeps no file open between writes: so a file that was moved away is noticed, and there is nothing to close.
type sink struct{ folder string }

// ownerFile names the sink that writes to the folder.
const ownerFile = ".millstream-sink"

// claim makes the folder and marks it as this sink's. Two sinks in one folder would cut off each other's lines.
func (s *sink) claim(owner string) error {
	if err := os.MkdirAll(s.folder, 0o700); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	marker := filepath.Join(s.folder, ownerFile)
	f, err := os.OpenFile(marker, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.WriteString(owner + "\n")
		return errors.Join(err, f.Close())
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("mark the folder: %w", err)
	}
	found, err := os.ReadFile(marker)
	if err != nil {
		return fmt.Errorf("read the mark of the folder: %w", err)
	}
	switch text := strings.TrimSpace(string(found)); text {
	case owner:
		return nil
	case "": // a crash came between making and writing it
		return os.WriteFile(marker, []byte(owner+"\n"), 0o600)
	default:
		return fmt.Errorf("folder %s belongs to sink %q, not to %q: give each sink a folder of its own, or remove %s if that one is gone", s.folder, text, owner, marker)
	}
}

// lengthKey holds the committed length: format byte 1, then 8 bytes big-endian.
var lengthKey = []byte("length")

const lengthFormat = 1

// Write appends one line per message and returns after the disk has it.
func (s *sink) Write(ctx context.Context, tx pipeline.Tx, attempts []pipeline.Attempt) ([]pipeline.Outcome, error) {
	if len(attempts) == 0 {
		return nil, nil
	}
	partition := attempts[0].Record.Partition
	outcomes := make([]pipeline.Outcome, len(attempts))
	var lines []byte
	for i, a := range attempts {
		if a.Record.Partition != partition {
			return nil, fmt.Errorf("write to the file of partition %d: one write holds records of partition %d too", partition, a.Record.Partition)
		}
		lines, outcomes[i] = appendLine(lines, a.Record)
	}
	if len(lines) == 0 {
		return outcomes, nil
	}
	length, known, err := committed(tx)
	if err != nil {
		return nil, fmt.Errorf("read the length of the file of partition %d: %w", partition, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	path := filepath.Join(s.folder, fmt.Sprintf("changes-%d.ndjson", partition))
	if err := appendAt(path, length, known, lines); err != nil {
		return nil, fmt.Errorf("append to %s: %w", path, err)
	}
	tx.Set(lengthKey, binary.BigEndian.AppendUint64([]byte{lengthFormat}, uint64(length)+uint64(len(lines))))
	return outcomes, nil
}

// Close has nothing to do.
func (s *sink) Close() error { return nil }

// appendLine appends the envelope of a message, without what is for the tables alone.
func appendLine(dst []byte, r *pipeline.Record) ([]byte, pipeline.Outcome) {
	m, err := pipeline.ParseMessage(r.Key, r.Value)
	if err != nil {
		var rej *pipeline.RejectError
		if !errors.As(err, &rej) {
			rej = pipeline.Reject("message_undecodable", "the message cannot be read")
		}
		return dst, pipeline.Outcome{Kind: pipeline.Rejected, Code: rej.Code, Reason: rej.Reason}
	}
	if m.Internal() {
		return dst, pipeline.Outcome{Kind: pipeline.Unchanged}
	}
	m.Meta = nil
	return append(m.AppendJSON(dst), '\n'), pipeline.Outcome{Kind: pipeline.Delivered}
}

// committed reads the length up to which the file counts, and whether there is one yet.
func committed(tx pipeline.Tx) (length int64, known bool, err error) {
	v, err := tx.Get(lengthKey)
	switch {
	case err != nil || v == nil:
		return 0, false, err
	case len(v) > 0 && v[0] != lengthFormat:
		return 0, false, fmt.Errorf("the stored length has format %d, this build reads format %d: upgrade it", v[0], lengthFormat)
	case len(v) != 9:
		return 0, false, fmt.Errorf("the stored length has %d bytes, not 9", len(v))
	}
	return int64(binary.BigEndian.Uint64(v[1:])), true, nil
}

// appendAt writes lines at length, cutting off what is beyond, and waits for the disk.
func appendAt(path string, length int64, known bool, lines []byte) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	switch size := info.Size(); {
	case !info.Mode().IsRegular():
		return errors.New("it is not a plain file")
	case size < length:
		return fmt.Errorf("the file has %d bytes, but %d were written and committed: bring it back from a copy; if the lines are not needed, fill it up to that length (truncate -s %d)", size, length, length)
	case !known && size > 0:
		if err := unfinished(f, size, lines); err != nil {
			return err
		}
	}
	if err := f.Truncate(length); err != nil {
		return err
	}
	if _, err := f.WriteAt(lines, length); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if length == 0 {
		return syncFolder(filepath.Dir(path))
	}
	return nil
}

// unfinished tells whether a file for which no length was ever committed holds the beginning of what is to be written, or
// that and more: then it was left by a first write that a crash cut short. Anything else is somebody's file.
func unfinished(f *os.File, size int64, lines []byte) error {
	n := min(size, int64(len(lines)))
	have := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, n), have); err != nil {
		return err
	}
	if string(have) != string(lines[:n]) {
		return fmt.Errorf("the file exists with %d bytes that this sink has not written: move it away, or give the sink another path", size)
	}
	return nil
}

// syncFolder makes a new file's name durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
