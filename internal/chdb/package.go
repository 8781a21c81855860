package chdb

import (
	"fmt"
	"os"
	"path/filepath"
)

// The package that Fetch brings. Digests and sizes: `npm pack @chdb/lib-linux-x64-gnu@26.7.3-stable.1`, 2026-11-25,
// sha256sum of the tarball and of package/libchdb.so in it. License of both: Apache-2.0.
// The packages for linux-arm64-gnu and darwin exist under the same scheme, but their digests have not been recorded.
const (
	// Version is that of libchdb.
	Version = "26.7.3-stable.1"

	packageName   = "@chdb/lib-linux-x64-gnu"
	packageOS     = "linux"
	packageArch   = "amd64"
	packageMember = "package/libchdb.so"

	tarballBytes  = 177_817_999
	tarballSHA256 = "c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad"
	libraryBytes  = 566_330_096
	librarySHA256 = "36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5"
)

// cacheFolder is dir, else MILLSTREAM_CACHE, else "millstream" in the user's cache folder.
func cacheFolder(dir string) (string, error) {
	if dir == "" {
		dir = os.Getenv("MILLSTREAM_CACHE")
	}
	if dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache folder: %w: set MILLSTREAM_CACHE to a folder with 1.2 GB of space", err)
	}
	return filepath.Join(dir, "millstream"), nil
}

func libraryPath(cache string) string { return filepath.Join(cache, "chdb", Version, "libchdb.so") }
