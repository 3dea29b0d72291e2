//go:build unix

package file

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockDir locks a directory for whoever has it open: alone if nobody else does, and
// otherwise together with the others. Waiting for one that is alone takes as long as its
// removal of leftovers.
func lockDir(dir string) (lock *os.File, alone bool, err error) {
	if lock, err = os.Open(dir); err != nil {
		return nil, false, err
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil:
		return lock, true, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		err = shareLock(lock)
	}
	if err != nil {
		err = errors.Join(&os.PathError{Op: "flock", Path: dir, Err: err}, lock.Close())
	}
	return lock, false, err
}

// shareLock lets others have the directory open, too.
func shareLock(lock *os.File) error { return unix.Flock(int(lock.Fd()), unix.LOCK_SH) }
