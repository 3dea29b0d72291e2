//go:build !linux

package file

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/floelog/floe/tiering/objstore"
)

// Other systems have neither unnamed files nor, portably, extended attributes: files
// are written in the temporary directory, and sums are computed.

func writeBody(ctx context.Context, f *os.File, body objstore.Body) error {
	for _, part := range body {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := f.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func openUnnamed(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func linkUnnamed(*os.File, string) error { return errors.ErrUnsupported }

func canLinkUnnamed(string) bool { return false }

func storeSum(*os.File, uint32) error { return nil }

func loadSum(*os.File) (uint32, bool) { return 0, false }

func removeObject(name string) error {
	info, err := os.Lstat(name)
	if errors.Is(err, os.ErrNotExist) || isNotDir(err) || err == nil && info.IsDir() {
		return nil
	}
	if err == nil {
		err = os.Remove(name)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
