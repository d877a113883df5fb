package capture_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/ustack/ustack/capture"
)

// inFile returns the numbers of the frames in a file, which must be whole.
func inFile(t *testing.T, name string) (numbers []byte) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := capture.NewReader(f)
	if err != nil {
		t.Fatal(name, err)
	}
	for {
		rec, err := r.Read()
		if err == io.EOF {
			return numbers
		}
		if err != nil {
			t.Fatalf("%s: after %d frames: %v", name, len(numbers), err)
		}
		numbers = append(numbers, rec.Data[14])
	}
}

func numbered(n, size int) (recs []capture.Record) {
	for i := range n {
		f := frame(size, 0)
		f[14] = byte(i)
		recs = append(recs, capture.Record{Data: f, Len: size})
	}
	return recs
}

// TestOutput stores a section that comes in pieces of any size.
func TestOutput(t *testing.T) {
	whole := section(t, records())
	for _, step := range []int{1, 3, 100, 4096, len(whole)} {
		name := filepath.Join(t.TempDir(), "a.pcapng")
		o, err := capture.NewOutput(capture.OutputConfig{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(whole); at += step {
			if n, err := o.Write(whole[at:min(len(whole), at+step)]); err != nil || n == 0 {
				t.Fatal(err)
			}
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, whole) {
			t.Errorf("in steps of %d: %d bytes of %d, %v", step, len(got), len(whole), err)
		}
		c, ok := o.Counts()
		if o.Packets() != uint64(len(records())) || !ok || c != (capture.Counts{Matched: 17, Dropped: 3}) {
			t.Errorf("%d packets, %+v, %v", o.Packets(), c, ok)
		}
	}
	for _, step := range []int{1, 100, 1 << 20} {
		var out bytes.Buffer
		o, err := capture.NewOutput(capture.OutputConfig{Name: "-", Stdout: &out})
		if err != nil {
			t.Fatal(err)
		}
		r := iotest.DataErrReader(&stepReader{whole, step})
		if n, err := o.ReadFrom(r); err != nil || n != int64(len(whole)) || !bytes.Equal(out.Bytes(), whole) {
			t.Errorf("read in steps of %d: %d bytes, %v", step, n, err)
		}
	}
	broken := errors.New("broken")
	o, err := capture.NewOutput(capture.OutputConfig{Name: "-", Stdout: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.ReadFrom(iotest.ErrReader(broken)); err != broken {
		t.Errorf("of a reader that fails: %v", err)
	}
	var out bytes.Buffer
	o, err = capture.NewOutput(capture.OutputConfig{Name: "-", Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Write(whole); err != nil || !bytes.Equal(out.Bytes(), whole) || o.Close() != nil {
		t.Errorf("to standard output: %v", err)
	}
}

// A stepReader gives step bytes at a time.
type stepReader struct {
	b    []byte
	step int
}

func (r *stepReader) Read(b []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.b[:min(len(r.b), r.step)])
	r.b = r.b[n:]
	return n, nil
}

// TestRotation: each file begins with the section's header, and no frame is cut or lost.
func TestRotation(t *testing.T) {
	whole := section(t, numbered(60, 1000))
	for _, files := range []int{0, 3, 12} {
		name := filepath.Join(t.TempDir(), "a")
		o, err := capture.NewOutput(capture.OutputConfig{Name: name, MaxBytes: 10_000, Files: files})
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(whole); at += 777 {
			if _, err := o.Write(whole[at:min(len(whole), at+777)]); err != nil {
				t.Fatal(err)
			}
		}
		o.Close()
		var names []string
		switch files {
		case 0:
			names = []string{name, name + "1", name + "2", name + "3", name + "4", name + "5"}
		case 3:
			names = []string{name + "0", name + "1", name + "2"}
		default:
			names = []string{name + "00", name + "01", name + "02", name + "03", name + "04", name + "05"}
		}
		var all []byte
		for _, n := range names {
			all = append(all, inFile(t, n)...)
		}
		if left, _ := filepath.Glob(name + "*"); len(left) < len(names) || len(left) > len(names)+1 {
			t.Errorf("%d files: %v", files, left)
		}
		want := 54 // those of six files at least
		if files == 3 {
			want = 20
		}
		if len(all) < want {
			t.Errorf("%d files: %d frames: %v", files, len(all), all)
		}
		if files != 3 {
			for i, n := range all {
				if int(n) != i {
					t.Fatalf("frame %d is %d", i, n)
				}
			}
		}
	}
}

// TestDiskFull: what is in the file when nothing more fits is whole frames.
func TestDiskFull(t *testing.T) {
	whole := section(t, numbered(200, 1000))
	name := filepath.Join(t.TempDir(), "a")
	o, err := capture.NewOutput(capture.OutputConfig{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	// A limit of the file's size fails like a full disk, after a part was written.
	limitFileSize(t, 100_000)
	var failed error
	for at := 0; at < len(whole) && failed == nil; at += 30_000 {
		_, failed = o.Write(whole[at:min(len(whole), at+30_000)])
	}
	if !errors.Is(failed, syscall.EFBIG) {
		t.Fatalf("the limit is not met: %v", failed)
	}
	if _, err := o.Write([]byte("more")); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("another write: %v", err)
	}
	o.Close()
	got := inFile(t, name)
	if uint64(len(got)) != o.Packets() || len(got) < 80 || len(got) >= 200 {
		t.Errorf("%d frames in the file, %d counted", len(got), o.Packets())
	}
}

func TestOutputErrors(t *testing.T) {
	if _, err := capture.NewOutput(capture.OutputConfig{Name: filepath.Join(t.TempDir(), "no", "such")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	for _, b := range []string{"HTTP/1.1 200 OK\r\n\r\n", "\x0a\x0d\x0d\x0a\x05\x00\x00\x00 and more", "\x0a\x0d\x0d\x0a\xff\xff\xff\xff and more"} {
		o, err := capture.NewOutput(capture.OutputConfig{Name: "-", Stdout: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Write([]byte(b)); err == nil {
			t.Errorf("%q is stored", b)
		}
	}
}

// TestOlderFile: what a file has stays until there is something to store in it.
func TestOlderFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.pcapng")
	older := bytes.Repeat([]byte("older "), 4000)
	if err := os.WriteFile(name, older, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, refused := range []bool{true, false} {
		o, err := capture.NewOutput(capture.OutputConfig{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if !refused {
			if _, err := o.Write(section(t, numbered(3, 60))); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		if !refused {
			break
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, older) {
			t.Errorf("%d bytes, %v: not what there was", len(got), err)
		}
	}
	if got := inFile(t, name); !bytes.Equal(got, []byte{0, 1, 2}) {
		t.Errorf("frames %v", got)
	}
}
