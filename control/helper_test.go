package control_test

import (
	"errors"
)

func helperMain(path string, args []string) error { return errors.New("x") }
