package troupe

/*
#include <stdlib.h>
#include <troupe/troupe.h>
*/
import "C"

import (
	"runtime"
	"unsafe"
)

func allocate(size int) unsafe.Pointer { return C.malloc(C.size_t(size)) }
func release(memory unsafe.Pointer)    { C.free(memory) }
func pointerTo[T any](of []T) unsafe.Pointer {
	if len(of) == 0 {
		return nil
	}
	return unsafe.Pointer(&of[0])
}

// DType is the type of a tensor's elements.
type DType int32

// The element types.
const (
	Float32 DType = iota
	Float64
	Float16
	BFloat16
	Int8
	Int16
	Int32
	Int64
	UInt8
	UInt16
	UInt32
	UInt64
	Bool
)

// Tensor is a dense array in memory outside of Go's. What a call brought may lie in another process's memory: then it
// is ReadOnly, and Clone is to be written. It is freed with the last reference to it, or by Free. One goroutine at a
// time.
type Tensor struct {
	handle *C.troupe_tensor
	info   C.troupe_tensor_info
}

func newTensor(handle *C.troupe_tensor) (*Tensor, error) {
	t := &Tensor{handle: handle, info: C.troupe_tensor_info{struct_size: C.size_t(unsafe.Sizeof(C.troupe_tensor_info{}))}}
	err := check(func() C.troupe_status { return C.troupe_tensor_describe(handle, &t.info) })
	if err != nil {
		C.troupe_tensor_free(handle)
		return nil, err
	}
	runtime.SetFinalizer(t, (*Tensor).Free)
	return t, nil
}

func shareTensor(of *C.troupe_tensor) (*Tensor, error) {
	var handle *C.troupe_tensor
	if err := check(func() C.troupe_status { return C.troupe_tensor_share(of, &handle) }); err != nil {
		return nil, err
	}
	return newTensor(handle)
}

// NewTensor makes one without a gap; its contents are undefined.
func NewTensor(dtype DType, shape ...int64) (*Tensor, error) {
	var handle *C.troupe_tensor
	err := check(func() C.troupe_status {
		return C.troupe_tensor_new(C.troupe_dtype(dtype), (*C.int64_t)(pointerTo(shape)), C.size_t(len(shape)), &handle)
	})
	if err != nil {
		return nil, err
	}
	return newTensor(handle)
}

// TensorOf makes a float32 tensor with a copy of these numbers.
func TensorOf(numbers []float32, shape ...int64) (*Tensor, error) {
	t, err := NewTensor(Float32, shape...)
	if err != nil {
		return nil, err
	}
	to, err := t.Float32s()
	if err == nil && len(to) != len(numbers) {
		err = fault(InvalidArgument, "%d numbers for a tensor of %d", len(numbers), len(to))
	}
	if err != nil {
		t.Free()
		return nil, err
	}
	copy(to, numbers)
	return t, nil
}

// DType of its elements.
func (t *Tensor) DType() DType { return DType(t.info.dtype) }

// Shape of it.
func (t *Tensor) Shape() []int64 {
	shape := make([]int64, int(t.info.rank))
	for i := range shape {
		shape[i] = int64(t.info.shape[i])
	}
	return shape
}

// ReadOnly: writing into it ends the process.
func (t *Tensor) ReadOnly() bool { return t.info.read_only != 0 }

// Float32s are its elements, in its own memory: valid until it is freed, so keep it. An error if they are of another
// type, have gaps or lie on a GPU.
func (t *Tensor) Float32s() ([]float32, error) {
	if t.handle == nil || t.DType() != Float32 || t.info.contiguous == 0 || t.info.gpu >= 0 {
		return nil, fault(InvalidArgument, "these are no float32 numbers without gaps in host memory")
	}
	if t.info.bytes == 0 {
		return nil, nil
	}
	return unsafe.Slice((*float32)(t.info.data), int(t.info.bytes)/4), nil
}

// Clone is a copy without gaps that can be written.
func (t *Tensor) Clone() (*Tensor, error) {
	var handle *C.troupe_tensor
	if err := check(func() C.troupe_status { return C.troupe_tensor_clone(t.handle, &handle) }); err != nil {
		return nil, err
	}
	runtime.KeepAlive(t)
	return newTensor(handle)
}

// Free lets go of its memory now.
func (t *Tensor) Free() {
	runtime.SetFinalizer(t, nil)
	C.troupe_tensor_free(t.handle)
	t.handle = nil
}
