package segment

// WholeBatches returns the bytes of the whole record batches at the start of the slices.
// What follows is cut off, or is no batch: VerifyBatches, given all, tells which.
func WholeBatches(slices [][]byte) int64 {
	var s scanner
	s.reset(slices)
	for {
		if ok, err := s.next(); err != nil || !ok {
			return s.at
		}
		s.pass()
	}
}
