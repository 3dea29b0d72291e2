package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lockName is the file in a data directory whose lock the process that uses it holds. It
// says who that is. The lock dies with the process; the file stays.
const lockName = "lock"

// dataLock is the exclusive use of a data directory.
type dataLock struct{ file *os.File }

// lockData takes the directory, which must exist, for this process. If another has it, the
// error says who.
func lockData(dir string) (*dataLock, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("data %s: %w", dir, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return &dataLock{f}, nil
	}
	holder, readErr := os.ReadFile(f.Name())
	closeErr := f.Close()
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("data %s: lock: %w", dir, err), closeErr)
	}
	who := strings.TrimSpace(string(holder))
	if readErr != nil || who == "" {
		who = "another process"
	}
	return nil, fmt.Errorf("data %s: in use by %s (stop it, or give another --data)", dir, who)
}

// hold writes who has the directory: this process, and what it is doing.
func (l *dataLock) hold(what string) error {
	if err := l.file.Truncate(0); err != nil {
		return fmt.Errorf("data lock: %w", err)
	}
	if _, err := l.file.WriteAt(fmt.Appendf(nil, "%s, pid %d\n", what, os.Getpid()), 0); err != nil {
		return fmt.Errorf("data lock: %w", err)
	}
	return nil
}

// release gives the directory up.
func (l *dataLock) release() error {
	return errors.Join(l.file.Truncate(0), l.file.Close())
}
