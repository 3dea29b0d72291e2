// Package house holds the rules of the house as tests: which package may import which,
// how large files and functions may grow, what nobody may call. Each failure names the
// cure. It has no code outside its tests.
package house
