//go:build race

package sim

// defaultSeeds is smaller here: the race detector makes a seed ten times as slow.
const defaultSeeds = 40
