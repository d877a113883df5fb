package link

import "encoding/binary"

// Finish calls emit with each frame that a frame with Offload o stands for on a wire without
// offloads: the segments of a super-frame with checksums in place, or the frame itself
// with its checksum in place. It reports false, and has called nothing, where Complete
// would drop the frame. The memory of frame is not changed; pieces are valid until emit
// returns.
func Finish(frame []byte, o Offload, emit func(pieces [][]byte)) bool {
	f := OutFrame{Pieces: [][]byte{frame}, Offload: o}
	n := len(frame)
	if n < HeaderLen || o.Validate(n) != nil {
		return false
	}
	switch {
	case o.GSOType != GSONone:
		var s segmenter
		if !s.start(&f, n) {
			return false
		}
		var pieces [][]byte
		hdr := make([]byte, s.hdr)
		for s.more() {
			pieces = s.next(hdr, pieces[:0])
			emit(pieces)
		}
	case o.NeedsCsum:
		from := int(o.CsumStart)
		at := from + int(o.CsumOffset)
		field := binary.BigEndian.AppendUint16(nil, f.checksum(from, n))
		emit([][]byte{frame[:at], field, frame[at+2:]})
	default:
		emit(f.Pieces)
	}
	return true
}
