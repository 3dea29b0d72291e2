package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/floelog/floe/tiering/objstore"
)

const sumAttribute = "user.floe.crc32c"

// writeStep is how many bytes are handed to the kernel before it is asked to start
// writing them to disk, so that the disk works while the rest is copied and the sync
// finds little left to do (measured: 8 MiB in 4.4 ms instead of 6.5 ms). Smaller steps
// make small disk writes, larger ones leave the disk idle.
const writeStep = 1 << 20

// maxVectors is the kernel's own limit on slices per call (UIO_MAXIOV).
const maxVectors = 1024

// writeBody writes a large body past the page cache where that works, anything else
// through it.
func writeBody(ctx context.Context, f *os.File, body objstore.Body) error {
	if body.Size() >= directMin {
		if done, err := writeDirect(ctx, f, body); done || err != nil {
			return err
		}
	}
	return writeBuffered(ctx, f, body)
}

// writeBuffered writes the slices as they are, without joining them.
func writeBuffered(ctx context.Context, f *os.File, body objstore.Body) error {
	fd := int(f.Fd())
	vectors := make([][]byte, 0, min(len(body)+1, maxVectors))
	var pos, step int64
	flush := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeVectors(fd, vectors); err != nil {
			return err
		}
		vectors = vectors[:0]
		if step >= writeStep {
			// Only a hint: what it could report, the sync reports as well.
			_ = unix.SyncFileRange(fd, pos, step, unix.SYNC_FILE_RANGE_WRITE)
			pos, step = pos+step, 0
		}
		return nil
	}
	for _, part := range body {
		for len(part) > 0 {
			n := int(min(int64(len(part)), writeStep-step))
			vectors, part = append(vectors, part[:n]), part[n:]
			if step += int64(n); step >= writeStep || len(vectors) == maxVectors {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// writeVectors writes all of vectors, and uses the list up.
func writeVectors(fd int, vectors [][]byte) error {
	for len(vectors) > 0 {
		n, err := unix.Writev(fd, vectors)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("writev", err)
		}
		for len(vectors) > 0 && n >= len(vectors[0]) {
			n -= len(vectors[0])
			vectors = vectors[1:]
		}
		if n > 0 {
			vectors[0] = vectors[0][n:]
		}
	}
	return nil
}

func openUnnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, &os.PathError{Op: "open unnamed file in", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir, "unnamed")), nil
}

func linkUnnamed(f *os.File, name string) error {
	self := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	if err := unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: self, New: name, Err: err}
	}
	return nil
}

// canLinkUnnamed tries whether dir's file system has unnamed files, and /proc is there
// to give them a name.
func canLinkUnnamed(dir string) bool {
	f, err := openUnnamed(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	probe := filepath.Join(dir, "probe")
	if linkUnnamed(f, probe) != nil {
		return false
	}
	return os.Remove(probe) == nil
}

func storeSum(f *os.File, sum uint32) error {
	err := unix.Fsetxattr(int(f.Fd()), sumAttribute, fmt.Appendf(nil, "%08x", sum), 0)
	if errors.Is(err, unix.ENOTSUP) {
		return nil // Head computes it
	}
	return os.NewSyscallError("fsetxattr", err)
}

func loadSum(f *os.File) (uint32, bool) {
	var buf [8]byte
	n, err := unix.Fgetxattr(int(f.Fd()), sumAttribute, buf[:])
	if err != nil || n != len(buf) {
		return 0, false
	}
	sum, err := strconv.ParseUint(string(buf[:]), 16, 32)
	return uint32(sum), err == nil
}

func removeObject(name string) error {
	// unlink only: os.Remove would take an empty directory too.
	err := unix.Unlink(name)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return &os.PathError{Op: "unlink", Path: name, Err: err}
}

func isNotDir(err error) bool { return errors.Is(err, unix.ENOTDIR) }

func isReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }
