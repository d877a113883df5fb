package link

// CheckOut returns whether a Device with this Info may put f on its wire, and
// else the reason under which to count it. n is the frame's length in bytes.
func (i *Info) CheckOut(f *OutFrame) (n int, why Drop, ok bool) {
	n = f.Len()
	switch {
	case n < HeaderLen:
		return n, DropTxShort, false
	case n > MaxFrame, f.Offload.GSOType == GSONone && n > i.MTU+HeaderLen+vlanLen:
		return n, DropTxOversize, false
	case f.Offload.Validate(n) != nil, !i.TX.Has(f.Offload.needs()):
		return n, DropTxOffload, false
	}
	return n, 0, true
}

// vlanLen is the length of one 802.1Q tag, which is not part of the MTU.
const vlanLen = 4

// needs returns the offloads a device must take for a frame with this metadata.
func (o *Offload) needs() Offloads {
	var want Offloads
	if o.NeedsCsum {
		want |= OffloadCsum
	}
	switch o.GSOType {
	case GSOTCPv4:
		want |= OffloadTSO4
	case GSOTCPv6:
		want |= OffloadTSO6
	}
	if o.ECN {
		want |= OffloadECN
	}
	return want
}
