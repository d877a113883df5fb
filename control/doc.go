// Package control lets programs use a stack that runs in another process, the
// daemon. A Server offers a Backend on a unix socket; a Client asks for its state,
// changes it and makes connections whose LocalAddr and RemoteAddr are the stack's. The data
// of a connection takes one unix socket between program and daemon.
//
// protocol.md, beside this file, is the protocol. The package knows no stack: Backend is all it
// asks of one, and programs that use the Client link none.
package control
