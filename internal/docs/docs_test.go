// Package docs holds tests that compare the pages with the repository: a page that lies is a defect like any other. What
// the pages say of keys and flags is compared in cmd/millstream, where those are.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

var (
	code    = regexp.MustCompile("`[^`\n]+`")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	named   = regexp.MustCompile("`[^`\n]+`|\\bTest[A-Z]\\w*|[|;\n]")
	command = regexp.MustCompile("(?m)(?:^(?:    )?|`)make ([a-z0-9]+)")
	target  = regexp.MustCompile(`(?m)^([a-z0-9]+):`)
	test    = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
)

// TestNamedTestsExist wants each test that a page names to be in the folder that is named before it, up to the next
// semicolon or cell or line; without a folder, anywhere.
func TestNamedTestsExist(t *testing.T) {
	folders := map[string]string{} // test, after its folder and a space or alone, to its file
	walk(t, "_test.go", func(file, text string) {
		for _, m := range test.FindAllStringSubmatch(text, -1) {
			folders[m[1]] = file
			folders[filepath.Dir(file)+" "+m[1]] = file
		}
	})
	found := 0
	pages(t, func(page, text string) {
		folder := ""
		for _, word := range named.FindAllString(text, -1) {
			path := strings.Trim(word, "`")
			switch {
			case len(word) == 1:
				folder = ""
			case path != word:
				if stat, err := os.Stat(filepath.Join(root, path)); err == nil && stat.IsDir() {
					folder = path
				}
			default:
				found++
				if folders[strings.TrimPrefix(folder+" "+word, " ")] == "" {
					t.Errorf("%s names the test %s, which is not in %s", page, word, "./"+folder)
				}
			}
		}
	})
	if found < 50 {
		t.Errorf("found the names of %d tests: does the search still work?", found)
	}
}

// TestLinksResolve wants links to lead to files and headings that exist, and code such as `internal/e2e` too.
func TestLinksResolve(t *testing.T) {
	found := 0
	pages(t, func(page, text string) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			path, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			found++
			to := filepath.Join(root, page)
			if path != "" {
				to = filepath.Join(filepath.Dir(to), path)
			}
			if !exists(to) {
				t.Errorf("%s links to %s, which does not exist", page, m[1])
			} else if anchor != "" && !hasAnchor(read(t, to), anchor) {
				t.Errorf("%s links to %s, but there is no such heading", page, m[1])
			}
		}
		for _, word := range code.FindAllString(text, -1) {
			path := strings.TrimSuffix(strings.Trim(word, "`"), "/...")
			top, _, inside := strings.Cut(path, "/")
			if inside && top != "" && !strings.ContainsAny(path, " *<{$…") && exists(filepath.Join(root, top)) && !exists(filepath.Join(root, path)) {
				t.Errorf("%s names %s, which does not exist", page, path)
			}
		}
	})
	if found < 5 {
		t.Errorf("found %d links: does the search still work?", found)
	}
}

// TestNamedTargetsExist wants each `make x` of a page to be in the Makefile.
func TestNamedTargetsExist(t *testing.T) {
	have := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(read(t, filepath.Join(root, "Makefile")), -1) {
		have[m[1]] = true
	}
	found := 0
	pages(t, func(page, text string) {
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			found++
			if !have[m[1]] {
				t.Errorf("%s says make %s, which the Makefile does not have", page, m[1])
			}
		}
	})
	if found < 5 {
		t.Errorf("found %d targets: does the search still work?", found)
	}
}

// hasAnchor tells whether a heading of the page has that anchor: its words in lower case, joined with hyphens.
func hasAnchor(page, anchor string) bool {
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		words := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r > 127:
				return r
			}
			return -1
		}, strings.ToLower(m[1]))
		if words == anchor {
			return true
		}
	}
	return false
}

func pages(t *testing.T, fn func(page, text string)) {
	t.Helper()
	walk(t, ".md", fn)
}

// walk calls fn for every file of the repository whose name ends so.
func walk(t *testing.T, end string, fn func(file, text string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != root) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, end) {
			return nil
		}
		file, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fn(filepath.ToSlash(file), read(t, path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
