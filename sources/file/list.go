package file

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFiles bounds the position, which names every file and travels with every batch.
const maxFiles = 5000

// found is a file that matches.
type found struct {
	path string
	name string // base name without .gz: what its position and its events' ids go by
	size int64
}

// list finds the files of the patterns in the order of their paths. Of files with the same name only the first is
// returned, with an error for the others: their lines would have the same ids.
func list(patterns []string) ([]found, error) {
	var files []found
	for _, p := range patterns {
		paths, err := filepath.Glob(p)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", p, err)
		}
		for _, path := range paths {
			info, err := os.Stat(path)
			if err != nil || !info.Mode().IsRegular() {
				if err == nil || os.IsNotExist(err) { // a folder, or gone since
					continue
				}
				return nil, fmt.Errorf("list %s: %w", p, unwrapPath(err))
			}
			files = append(files, found{path, strings.TrimSuffix(filepath.Base(path), ".gz"), info.Size()})
		}
	}
	slices.SortFunc(files, func(a, b found) int { return cmp.Compare(a.path, b.path) })
	files = slices.CompactFunc(files, func(a, b found) bool { return a.path == b.path })
	if len(files) > maxFiles {
		return nil, fmt.Errorf("%d files match %s, at most %d can be followed: use a narrower pattern", len(files), strings.Join(patterns, ", "), maxFiles)
	}
	var problem error
	first := map[string]string{}
	files = slices.DeleteFunc(files, func(f found) bool {
		other, taken := first[f.name]
		if taken {
			problem = fmt.Errorf("%s and %s have the same name, so their lines would have the same ids: rename one, or make two sources", other, f.path)
		} else {
			first[f.name] = f.path
		}
		return taken
	})
	return files, problem
}

// unwrapPath keeps the path and the cause of a file error, and drops the name of the system call.
func unwrapPath(err error) error {
	if e, ok := err.(*fs.PathError); ok { //nolint:errorlint // what is wrapped already says more than this would
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	}
	return err
}
