package userns

import "fmt"

// HelperError tells that newuidmap or newgidmap is missing or failed.
type HelperError struct {
	Program string // newuidmap or newgidmap
	Path    string // where it was found, or Program
	Said    string // what it printed
	Err     error
}

func (e *HelperError) Error() string {
	if e.Said != "" {
		return fmt.Sprintf("run %s: %s", e.Path, e.Said)
	}
	return fmt.Sprintf("run %s: %v", e.Path, e.Err)
}

func (e *HelperError) Unwrap() error { return e.Err }
