package userns

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// install writes the maps of the process pid from outside, as m.Method says.
//
// Runs in: the caller of Start, in the parent of the new user namespace.
func (m *Map) install(pid int) error {
	if m.Method == Helper {
		gids := make(chan error, 1)
		go func() { gids <- runHelper("newgidmap", pid, m.GID) }() // a millisecond each
		err := runHelper("newuidmap", pid, m.UID)
		return cmp.Or(err, <-gids)
	}
	if err := writeMap(pid, "uid_map", StepUIDMap, m.UID); err != nil {
		return err
	}
	return writeMap(pid, "gid_map", StepGIDMap, m.GID)
}

func writeMap(pid int, name string, step Step, extents []Extent) error {
	err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/"+name, formatMap(extents), 0)
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return &StartError{Step: step, Err: errno}
	}
	return err
}

// formatMap writes extents as user_namespaces(7) wants them. The kernel takes
// the whole map in one write only.
func formatMap(extents []Extent) []byte {
	var b bytes.Buffer
	for _, e := range extents {
		fmt.Fprintf(&b, "%d %d %d\n", e.Inside, e.Outside, e.Count)
	}
	return b.Bytes()
}

// helperLimit is generous: newuidmap may ask a directory service.
const helperLimit = 30 * time.Second

func runHelper(program string, pid int, extents []Extent) error {
	args := []string{strconv.Itoa(pid)}
	for _, e := range extents {
		args = append(args, strconv.FormatUint(uint64(e.Inside), 10),
			strconv.FormatUint(uint64(e.Outside), 10), strconv.FormatUint(uint64(e.Count), 10))
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return &HelperError{Program: program, Path: cmd.Path, Said: string(bytes.TrimSpace(said.Bytes())), Err: err}
	}
	return nil
}
