package file

// OpenNamed opens a store as on a file system that has no unnamed files.
func OpenNamed(root string) (*Store, error) {
	s, err := Open(root)
	if err == nil {
		s.unnamed = false
	}
	return s, err
}
