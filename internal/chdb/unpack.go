package chdb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// errDigest is in the error of a file that is not what it should be.
var errDigest = errors.New("wrong SHA-256 digest")

// unpack writes the library in source, a package or the library itself, to target. Only that one member is written, under a
// name that the archive does not choose. On an error target may be there, incomplete.
func unpack(ctx context.Context, source, target string, p *progress) error {
	in, err := os.Open(source)
	if err != nil {
		return fmt.Errorf("open the package: %w", err)
	}
	defer func() { _ = in.Close() }() // read only
	head := make([]byte, 4)
	if _, err := io.ReadFull(in, head); err != nil {
		return fmt.Errorf("read %s: %w", source, err)
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read %s: %w", source, err)
	}
	var library io.Reader
	switch {
	case bytes.Equal(head, []byte("\x7fELF")):
		library = in
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		if err := checkTarball(ctx, in, source); err != nil {
			return err
		}
		if library, err = openMember(ctx, in); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s is neither the package (.tgz) nor the library (libchdb.so) in it", source)
	}
	return writeLibrary(ctx, library, source, target, p)
}

// checkTarball compares the digest before anything is unpacked, and rewinds.
func checkTarball(ctx context.Context, in *os.File, source string) error {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(withContext(ctx, in), tarballBytes+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", source, err)
	}
	if err := checkDigest(h.Sum(nil), tarballSHA256, n, tarballBytes, source); err != nil {
		return err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read %s: %w", source, err)
	}
	return nil
}

// openMember moves to the library in the package.
func openMember(ctx context.Context, in io.Reader) (io.Reader, error) {
	z, err := gzip.NewReader(withContext(ctx, in))
	if err != nil {
		return nil, fmt.Errorf("decompress the package: %w", err)
	}
	for members := tar.NewReader(z); ; {
		m, err := members.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("the package has no %s", packageMember)
		}
		if err != nil {
			return nil, fmt.Errorf("unpack the package: %w", err)
		}
		if m.Name == packageMember && m.Typeflag == tar.TypeReg {
			return members, nil
		}
	}
}

// writeLibrary copies the library to the disk and compares its digest.
func writeLibrary(ctx context.Context, library io.Reader, source, target string, p *progress) (err error) {
	out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("create the library: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	h := sha256.New()
	counted := &countingWriter{progress: p, before: p.total - libraryBytes}
	n, err := io.Copy(io.MultiWriter(out, h, counted), io.LimitReader(withContext(ctx, library), libraryBytes+1))
	if err != nil {
		return fmt.Errorf("write the library: %w", err)
	}
	if err := checkDigest(h.Sum(nil), librarySHA256, n, libraryBytes, source); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return fmt.Errorf("write the library: %w", err)
	}
	return nil
}

func checkDigest(sum []byte, want string, n, wantBytes int64, source string) error {
	if got := hex.EncodeToString(sum); got != want {
		return fmt.Errorf("%s: %w: %s of %d bytes, want %s of %d bytes: it is damaged or another version than %s, fetch it again with npm pack %s@%s",
			source, errDigest, got, n, want, wantBytes, Version, packageName, Version)
	}
	return nil
}

// countingWriter reports the bytes that pass.
type countingWriter struct {
	progress *progress
	before   int64
	n        int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	c.progress.set(c.before + c.n)
	return len(b), nil
}

// withContext ends reading when ctx ends.
func withContext(ctx context.Context, r io.Reader) io.Reader { return contextReader{ctx, r} }

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
