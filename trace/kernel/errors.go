package kernel

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// unsupported says why no way could be taken. It is one line.
type unsupported struct{ refused []error }

func (u *unsupported) Error() string {
	var b strings.Builder
	b.WriteString("trace/kernel: no kernel steps")
	for i, err := range u.refused {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		b.WriteString(firstLine(err))
	}
	return b.String()
}

func (u *unsupported) Unwrap() []error { return append([]error{ErrUnsupported}, u.refused...) }

// firstLine is err without the verifier's log.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// A refusal is an error of the kernel, told as what would help.
type refusal struct {
	err    error
	remedy string
}

func (r *refusal) Error() string { return r.remedy }
func (r *refusal) Unwrap() error { return r.err }

// explain adds to an error of the bpf system call what is missing.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) && !errors.As(err, &verifier):
		if lockdown() == "confidentiality" {
			return &refusal{err, "lockdown=confidentiality forbids it"}
		}
		return &refusal{err, "needs CAP_BPF and CAP_PERFMON: run as root"}
	case errors.Is(err, unix.ENOSYS):
		return &refusal{err, "this kernel has no bpf()"}
	}
	return err
}

// explainTracefs adds to an error of a file of tracefs what is missing.
func explainTracefs(err error) error {
	switch {
	case errors.Is(err, unix.EPERM) && lockdown() == "confidentiality":
		return &refusal{err, "lockdown=confidentiality forbids it"}
	case errors.Is(err, fs.ErrPermission):
		at := "tracefs"
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			at = path.Path
		}
		return &refusal{err, "no access to " + at + ": run as root"}
	}
	return err
}

// lockdown returns the mode in force, or "" where it cannot be seen.
func lockdown() string {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), "[")
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}
