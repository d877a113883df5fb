// Package runner puts an unmodified program on the stack of a daemon: dynamic, static,
// Go or Java, client or server. A seccomp filter hands the program's socket calls over to
// a supervisor (seccomp_unotify(2)), which gives it unix sockets that the daemon serves
// as flows. Data then moves without the supervisor. README.md tells how a call travels.
//
// It is compatibility, not a sandbox: arguments that a call points to can change after
// they were looked at.
package runner
