package docs

import (
	"io/fs"
	"path/filepath"
	"testing"
)

// maxFile is above the largest page by far: what is larger is built or fetched, and does not belong to the repository.
const maxFile = 1 << 20

func TestNoFileIsLarge(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch d.Name() {
		case ".git", "bin", ".millstream":
			return filepath.SkipDir
		}
		if d.IsDir() {
			return nil
		}
		files++
		info, err := d.Info()
		if err == nil && info.Size() > maxFile {
			t.Errorf("%s has %d bytes, the limit is %d: build or fetch it instead", path, info.Size(), maxFile)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Errorf("looked at %d files: does the search still work?", files)
	}
}
