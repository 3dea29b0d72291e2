//go:build !unix

package file

import "os"

// lockDir does not lock: without flock(2), one process at a time may have a directory open.
func lockDir(dir string) (lock *os.File, alone bool, err error) {
	lock, err = os.Open(dir)
	return lock, true, err
}

func shareLock(*os.File) error { return nil }
