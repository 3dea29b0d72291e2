//go:build !race

package sim

// defaultSeeds takes some ten seconds. More find more, see the Makefile's target sim.
const defaultSeeds = 200
