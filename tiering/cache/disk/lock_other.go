//go:build !unix

package disk

import "os"

// lock does not lock: without flock(2), one process at a time may use a folder.
func lock(*os.File) (bool, error) { return true, nil }
