package segment

import "hash/crc32"

// The checksum of a chunk is the plain CRC-32C of its bytes, but it is not computed by a
// pass over them. Each batch holds the CRC-32C of everything behind its own CRC field,
// and the agent has compared it on arrival; two such sums can be combined into the sum
// of the bytes one after the other, because a CRC is linear: appending n bytes multiplies
// the sum by x^(8n) modulo the polynomial, and adds the sum of the bytes.
//
// So only 21 bytes of each batch are read. The sum is as strong as one computed from the
// bytes, and in one respect stronger: a bit that flips in memory between the agent's check
// and the upload is still found, where a second pass would have signed it.
//
// Rejected: a checksum over the batches' headers only, which no other tool could compare;
// a pass over the bytes, for the reason above and for its time.

// gf multiplies two polynomials modulo Castagnoli's. Bit 31 is the coefficient of x^0.
func gf(a, b uint32) uint32 {
	var p uint32
	for ; a != 0; a <<= 1 {
		p ^= b & -(a >> 31)
		b = b>>1 ^ crc32.Castagnoli&-(b&1)
	}
	return p
}

const gfOne = 1 << 31

// bytePowers[k][d] is x^(8·d·256^k): the factor that d·256^k appended bytes stand for.
// Six digits to base 256 are more than the largest object of any store.
var bytePowers = func() (t [6][256]uint32) {
	step := uint32(1 << (31 - 8)) // x^8: one byte
	for k := range t {
		t[k][0] = gfOne
		for d := 1; d < 256; d++ {
			t[k][d] = gf(t[k][d-1], step)
		}
		step = gf(t[k][255], step)
	}
	return t
}()

// combineCRC returns the CRC-32C of A followed by B, of which it gets the sums a and b,
// and the length of B, at least 0 and below 2^48.
func combineCRC(a, b uint32, lengthB int64) uint32 {
	for k := 0; lengthB != 0; k++ {
		if d := lengthB & 0xff; d != 0 {
			a = gf(a, bytePowers[k][d])
		}
		lengthB >>= 8
	}
	return a ^ b
}
