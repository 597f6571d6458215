package oci

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Resolver turns an action into the program to execute, by setting Args and
// Env. It runs inside the container's root, without capabilities if the payload
// has none. What it hands to warn is printed by the caller.
type Resolver func(action json.RawMessage, p *Process, warn func(text string)) error

// Init is the body of `coracle x init`, with the arguments after these words. It
// carries out the Plan and becomes the payload; as PID 1 of a container with an
// init it stays and exits with the payload's status. It returns only after an
// error, which the caller has been told.
//
// Runs in: x init, inside the new namespaces, on the main thread. It owns its
// process: it changes the root, the directory, the umask and the capabilities.
func Init(args []string, resolve Resolver) error {
	runtime.LockOSThread() // capabilities, the parent-death signal and execve belong to this thread
	debug.SetGCPercent(-1) // lives for a few milliseconds
	nameProcess("coracle-init")
	in, err := newInitProcess(args)
	if err != nil {
		return err
	}
	if err := in.run(resolve); err != nil {
		sendFrame(in.reportFD, &frame{Debug: in.timings(), Fault: newFault(err)})
		return err
	}
	return nil
}

// nameProcess sets what top and killall show; it would be "exe", for
// /proc/self/exe. The kernel cuts names after 15 bytes.
func nameProcess(name string) {
	b := append([]byte(name), 0)
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0)
}

// initProcess is what x init holds while it carries out its Plan.
type initProcess struct {
	plan     Plan
	reportFD int
	keeperFD int // socket to x fuse or x guard; -1 without
	nullFD   int // /dev/null of the host, for a PID 1 that stays; else -1

	debug bool
	begun time.Time
	marks []mark
}

// mark is a point of the start, for the debug log.
type mark struct {
	name string
	at   time.Duration
}

func newInitProcess(args []string) (*initProcess, error) {
	in := &initProcess{begun: time.Now(), nullFD: -1}
	flags := flag.NewFlagSet("x init", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	planFD := flags.Int("plan-fd", -1, "")
	flags.IntVar(&in.reportFD, "report-fd", -1, "")
	flags.IntVar(&in.keeperFD, "keeper-fd", -1, "")
	flags.BoolVar(&in.debug, "debug", false, "")
	if err := flags.Parse(args); err != nil {
		return nil, fmt.Errorf("x init: %w", err)
	}
	if *planFD < 0 || in.reportFD < 0 {
		return nil, errors.New("x init is started by coracle itself")
	}
	for _, fd := range []int{*planFD, in.reportFD, in.keeperFD} {
		if fd >= 0 {
			unix.CloseOnExec(fd)
		}
	}
	if err := readValue(*planFD, &in.plan); err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	unix.Close(*planFD)
	in.mark("plan")
	return in, nil
}

// run is the whole life of x init, in order.
func (in *initProcess) run(resolve Resolver) error {
	p := &in.plan
	if p.Namespaces.PID && p.Namespaces.Init {
		fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return &StepError{Step: "open /dev/null", Err: err}
		}
		in.nullFD = fd
	}
	b := &builder{in: in, root: -1}
	if err := b.assemble(); err != nil {
		return err
	}
	in.mark("root")
	for i := range p.Mounts {
		if err := b.mount(&p.Mounts[i]); err != nil {
			return err
		}
	}
	in.mark("mounts")
	if err := b.enter(); err != nil {
		return err
	}
	in.mark("enter")
	if err := in.settle(); err != nil {
		return err
	}
	if p.Process.Action != nil {
		if err := in.resolve(resolve); err != nil {
			return err
		}
		in.mark("resolve")
	}
	return in.execute()
}

func (in *initProcess) resolve(resolve Resolver) error {
	if resolve == nil {
		return errors.New("the plan has an action, and this program cannot resolve it")
	}
	return resolve(in.plan.Process.Action, &in.plan.Process, in.warn)
}

// warn and note are best effort: without a caller there is nobody to read them.
func (in *initProcess) warn(text string) { sendFrame(in.reportFD, &frame{Warn: text}) }

func (in *initProcess) note(format string, args ...any) {
	if in.debug {
		sendFrame(in.reportFD, &frame{Debug: fmt.Sprintf(format, args...)})
	}
}

func (in *initProcess) mark(name string) {
	if in.debug {
		in.marks = append(in.marks, mark{name, time.Since(in.begun)})
	}
}

// timings reads "x init: plan 0.21 ms, root 0.60 ms, …", each since the start
// of main.
func (in *initProcess) timings() string {
	if !in.debug {
		return ""
	}
	var b strings.Builder
	b.WriteString("x init:")
	for i, m := range in.marks {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %s %.2f ms", m.name, float64(m.at.Microseconds())/1000)
	}
	return b.String()
}
