package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

const (
	// upgradeName is the protocol named in the Upgrade header of POST /v1/flows.
	upgradeName = "ustack-flow"
	// maxMessage is the longest flow message in bytes, its newline included.
	maxMessage = 64 << 10
	// maxPendingFDs bounds the descriptors that arrived ahead of their messages.
	maxPendingFDs = 64
)

// A Request is a message from a client on a flows connection. protocol.md says which
// fields each Op takes.
type Request struct {
	// ID is repeated in the Reply; 0 asks for none.
	ID uint64 `json:"id,omitempty"`
	Op string `json:"op"`
	// Flow is what the request is about, where it is about one that exists.
	Flow    uint64         `json:"flow,omitempty"`
	Network string         `json:"network,omitempty"`
	Address string         `json:"address,omitempty"` // host:port, or a name to resolve
	Local   string         `json:"local,omitempty"`   // host:port
	Backlog int            `json:"backlog,omitempty"`
	Options map[string]int `json:"options,omitempty"`
	// Name and Value are of setopt and getopt.
	Name  string `json:"name,omitempty"`
	Value int    `json:"value,omitempty"`
	// How is "read", "write" or "both" of shutdown.
	How string `json:"how,omitempty"`
	// Target is the ID of the request to cancel, or whose local address is asked for.
	Target uint64 `json:"target,omitempty"`
	// Framed asks for headers on the datagrams of a connected UDP flow.
	Framed bool `json:"framed,omitempty"`
	// Info asks for more about each datagram of a framed UDP flow.
	Info bool `json:"info,omitempty"`
	// Data is the datagram of send.
	Data []byte `json:"data,omitempty"`
	// Hold asks that the data descriptor stay open after a reset until close.
	Hold bool `json:"hold,omitempty"`
	// Skip is how many bytes of what the other end of the descriptor has sent are not data.
	Skip int `json:"skip,omitempty"`
	// FD says that a descriptor travels with this message.
	FD bool `json:"fd,omitempty"`
}

// A Reply is a message to a client: an answer when ID is set, else an event.
type Reply struct {
	ID uint64 `json:"id,omitempty"`
	// Event is "ended", "error" or "protocol".
	Event  string       `json:"event,omitempty"`
	Flow   uint64       `json:"flow,omitempty"`
	Local  string       `json:"local,omitempty"`  // IP:PORT
	Remote string       `json:"remote,omitempty"` // IP:PORT
	Value  int          `json:"value,omitempty"`
	Addrs  []netip.Addr `json:"addrs,omitempty"`
	wireError

	end *flowEnd // of the flow it opened; the client's
}

// Err is the error the Reply carries: a syscall.Errno, an error that wraps one, or
// a *net.DNSError; nil if it carries none.
func (r Reply) Err() error { return r.err() }

var errMessageTooLong = fmt.Errorf("message is longer than %d bytes", maxMessage)

// decodeRequest reads one message without its newline. The error is for the client.
func decodeRequest(line []byte) (Request, error) {
	var r Request
	if len(line) > maxMessage {
		return r, errMessageTooLong
	}
	if err := decodeJSON(line, &r); err != nil {
		return Request{}, err
	}
	if r.Op == "" {
		return Request{}, errors.New(`message has no "op"`)
	}
	return r, nil
}

// decodeJSON decodes exactly one JSON object. Fields that are not known are an
// error in a change that would otherwise do less than was asked for, so it is
// the caller's matter; here they pass, for the sake of newer clients.
func decodeJSON(b []byte, v any) error {
	b = bytes.TrimSpace(b)
	if len(b) == 0 || b[0] != '{' {
		return errors.New("message is not a JSON object")
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("message is not valid: %w", err)
	}
	return nil
}

// appendMessage appends v as one line.
func appendMessage(dst []byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return dst, err
	}
	return append(append(dst, b...), '\n'), nil
}
