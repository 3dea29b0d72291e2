package file_test

import (
	"testing"

	"golang.org/x/sys/unix"
)

func keepsSum(t *testing.T, name string) bool {
	t.Helper()
	n, err := unix.Getxattr(name, "user.floe.crc32c", nil)
	return err == nil && n == 8
}
