package kernel

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseLine reads one line of trace_pipe:
//
//	curl-14417   [001] b.... 22470.808787: net_dev_queue: dev=lo skbaddr=00000000c844db1a len=74
//	CPU:0 [LOST 12 EVENTS]
//
// It returns the event, whose PID is that of a thread, or how many were lost, or neither for a line of another
// kind. The name at its beginning is a process's own choice and may hold anything.
func parseLine(line []byte) (e Event, lost uint64, ok bool) {
	if rest, found := bytes.CutPrefix(bytes.TrimLeft(line, " "), []byte("CPU:")); found {
		if n, found := between(string(rest), "[LOST ", " EVENTS]"); found {
			if lost, err := strconv.ParseUint(n, 10, 63); err == nil {
				return Event{}, lost, false
			}
		}
	}
	text := string(line)
	for from := 0; ; {
		i := strings.IndexByte(text[from:], '[')
		if i < 0 {
			return Event{}, 0, false
		}
		from += i + 1
		if e, ok := parseFrom(text[from:]); ok {
			if e.Step == CopyOut {
				e.PID, e.Comm = task(text[:from-1])
			}
			return e, 0, true
		}
	}
}

// parseFrom reads what follows the bracket of the CPU: "001] b.... 1.000001: name: fields".
func parseFrom(s string) (Event, bool) {
	cpu, s, ok := strings.Cut(s, "] ")
	if !ok {
		return Event{}, false
	}
	n, err := strconv.ParseUint(cpu, 10, 16)
	if err != nil {
		return Event{}, false
	}
	_, s, ok = strings.Cut(strings.TrimLeft(s, " "), " ") // flags of the context
	if !ok {
		return Event{}, false
	}
	stamp, s, ok := strings.Cut(strings.TrimLeft(s, " "), ": ")
	if !ok {
		return Event{}, false
	}
	mono, ok := seconds(stamp)
	if !ok {
		return Event{}, false
	}
	name, s, _ := strings.Cut(s, ": ")
	for _, known := range tracefsEvents() {
		if known.name == name {
			e := Event{Mono: mono, CPU: int(n), Step: known.name}
			return e, e.fields(s)
		}
	}
	return Event{}, false
}

// seconds reads "22470.808787".
func seconds(s string) (time.Duration, bool) {
	whole, part, ok := strings.Cut(s, ".")
	sec, err := strconv.ParseUint(whole, 10, 63)
	if !ok || err != nil || sec > math.MaxInt64/uint64(time.Second)-1 || len(part) != 6 {
		return 0, false
	}
	usec, err := strconv.ParseUint(part, 10, 32)
	return time.Duration(sec)*time.Second + time.Duration(usec)*time.Microsecond, err == nil
}

// task reads "name-14417   ", a thread; its name may hold hyphens and blanks.
func task(s string) (tid int, comm string) {
	s = strings.Trim(s, " ")
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return 0, ""
	}
	n, err := strconv.ParseUint(s[i+1:], 10, 31)
	if err != nil {
		return 0, ""
	}
	return int(n), s[:i]
}

// fields reads "key=value key=value reason: VALUE"; icmp_send has its own form. It
// returns false without the buffer's identity.
func (e *Event) fields(s string) bool {
	if e.Step == ICMPSend { // icmp_send: type=3, code=3. From 10.0.0.1:1 to 10.0.0.2:2 ulen=20 skbaddr=…
		s = strings.NewReplacer(", ", " ", ". ", " ").Replace(s)
	}
	if before, reason, ok := strings.Cut(s, "reason: "); ok {
		s, e.Reason = before, reason
	}
	identified := false
	for field := range strings.FieldsSeq(s) {
		key, value, _ := strings.Cut(field, "=")
		n, err := strconv.ParseUint(value, 0, 32) // decimal, or hexadecimal with 0x
		if err != nil {
			n = 0
		}
		switch key {
		case "dev":
			e.Dev = value
		case "skbaddr":
			e.Skb, err = strconv.ParseUint(value, 16, 64)
			identified = err == nil
		case "len":
			e.Len = int(n)
		case "protocol":
			e.Proto = uint16(n)
		case "rc":
			rc, err := strconv.ParseInt(value, 10, 32)
			if err == nil {
				e.RC = int(rc)
			}
		case "location":
			e.Where, _, _ = strings.Cut(value, "+")
			e.Where, _, _ = strings.Cut(e.Where, ".")
			if strings.HasPrefix(e.Where, "0x") {
				e.Where = "" // an address: the kernel has no name for it
			}
		case "vlan_proto":
			e.VLANProto = uint16(n)
		case "vlan_tci":
			e.VLAN = uint16(n)
		case "ip_summed":
			e.IPSummed = uint8(n)
		case "gso_size":
			e.GSOSize = int(n)
		case "gso_segs":
			e.GSOSegs = int(n)
		case "reason":
			e.Reason = value
		case "type":
			e.ICMPType = uint8(n)
		case "code":
			e.ICMPCode = uint8(n)
		}
	}
	return identified
}

// between returns what lies between two markers.
func between(s, from, to string) (string, bool) {
	_, s, ok := strings.Cut(s, from)
	if !ok {
		return "", false
	}
	s, _, ok = strings.Cut(s, to)
	return s, ok
}
