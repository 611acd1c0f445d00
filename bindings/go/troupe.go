// Package troupe calls actors of a Troupe cluster from Go: nodes, calls under a context, tensors, tables, and, made of
// these, a proxy that balances over replicas and a scheduler of tasks.
//
// It stands on the library for C. No goroutine that waits for an answer holds a thread, and crossings into C are paid
// once for many calls: those that begin at the same time begin together, and one goroutine for each node fetches what
// has ended. See docs/go.md.
package troupe

/*
#cgo pkg-config: troupe-c
#include <stdlib.h>
#include <troupe/troupe.h>
*/
import "C"

import (
	"context"
	"fmt"
	"runtime"
)

// Code says what went wrong by what the caller should do about it; docs/failure-contract.md.
type Code int32

// The codes, as gRPC has them.
const (
	OK                 Code = 0
	Cancelled          Code = 1
	Unknown            Code = 2
	InvalidArgument    Code = 3
	DeadlineExceeded   Code = 4
	NotFound           Code = 5
	AlreadyExists      Code = 6
	PermissionDenied   Code = 7
	ResourceExhausted  Code = 8
	FailedPrecondition Code = 9
	Aborted            Code = 10
	OutOfRange         Code = 11
	Unimplemented      Code = 12
	Internal           Code = 13
	Unavailable        Code = 14
	DataLoss           Code = 15
	Unauthenticated    Code = 16
)

func (c Code) String() string { return C.GoString(C.troupe_status_name(C.troupe_status(c))) }

// Error is what all functions here fail with. errors.Is(err, context.DeadlineExceeded) and context.Canceled hold for
// those codes.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return e.Message }

// Is makes errors.Is know the context's errors.
func (e *Error) Is(target error) bool {
	return (e.Code == DeadlineExceeded && target == context.DeadlineExceeded) ||
		(e.Code == Cancelled && target == context.Canceled)
}

// CodeOf an error of this package; Unknown for another, OK for nil.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	if e, ok := err.(*Error); ok {
		return e.Code
	}
	return Unknown
}

func fault(code Code, format string, args ...any) *Error {
	return &Error{code, code.String() + ": " + fmt.Sprintf(format, args...)}
}

// check runs a function of C, whose error text belongs to the thread on which it fails.
func check(call func() C.troupe_status) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if status := call(); status != C.TROUPE_OK {
		return &Error{Code(status), C.GoString(C.troupe_last_error())}
	}
	return nil
}
