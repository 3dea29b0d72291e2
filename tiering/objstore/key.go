package objstore

import (
	"fmt"
	"strings"
)

// MaxKey is the greatest length of a key in bytes. Not smaller: names of topics (249)
// may be part of a key. Not larger: S3 allows 1024 with the store's own prefix.
const MaxKey = 512

// maxKeyPart is the greatest length of what stands between two slashes: file names may
// have 255 bytes.
const maxKeyPart = 255

// SelfTestPrefix begins the keys of objects by which an agent that starts tests a store. It
// removes them; what is left behind when it could not is swept.
const SelfTestPrefix = "selftest/"

// CheckKey reports, as ErrInvalid, why key cannot name an object: only the characters
// [A-Za-z0-9._/-], no empty part between slashes, no part "." or "..", at most MaxKey
// bytes. So a key means the same to a directory, a URL and a shell.
func CheckKey(key string) error {
	if len(key) > MaxKey {
		return fmt.Errorf("%w: key of %d bytes, at most %d are allowed", ErrInvalid, len(key), MaxKey)
	}
	if err := checkCharacters(key); err != nil {
		return err
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." || len(part) > maxKeyPart {
			return fmt.Errorf("%w: key %q has the part %q", ErrInvalid, key, part)
		}
	}
	return nil
}

// CheckPrefix reports, as ErrInvalid, why no key can start with prefix.
func CheckPrefix(prefix string) error {
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		if err := CheckKey(prefix[:i]); err != nil {
			return err
		}
	}
	return checkCharacters(prefix)
}

func checkCharacters(s string) error {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == '-', c == '/':
		default:
			return fmt.Errorf("%w: key %q has the character %q, only A-Z a-z 0-9 . _ - / are allowed", ErrInvalid, s, c)
		}
	}
	return nil
}

// CheckUpTo reports, as ErrInvalid, a key or range that GetUpTo cannot mean.
func CheckUpTo(key string, off, n int64) error {
	if n == 0 {
		return fmt.Errorf("%w: at most 0 bytes from position %d of %s", ErrInvalid, off, key)
	}
	return CheckRange(key, off, n)
}

// CheckRange reports, as ErrInvalid, a key or range that GetRange cannot mean.
func CheckRange(key string, off, n int64) error {
	if off < 0 || n < 0 || off+n < 0 {
		return fmt.Errorf("%w: %d bytes from position %d of %s", ErrInvalid, n, off, key)
	}
	return CheckKey(key)
}
