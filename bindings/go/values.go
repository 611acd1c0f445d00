package troupe

/*
#include <troupe/troupe.h>
*/
import "C"

import (
	"reflect"
	"sort"
	"unsafe"
)

// arena is memory of C's for the arguments of some calls; it grows, and is used again.
type arena struct {
	blocks [][]byte
	block  int // that is being filled
	used   int
}

const arenaBlock = 64 << 10

func (a *arena) take(size int) unsafe.Pointer {
	size = (size + 15) &^ 15
	for {
		if a.block < len(a.blocks) {
			if block := a.blocks[a.block]; a.used+size <= len(block) {
				place := unsafe.Pointer(&block[a.used])
				a.used += size
				return place
			}
			a.block++
			a.used = 0
			continue
		}
		length := arenaBlock
		if size > length {
			length = size
		}
		a.blocks = append(a.blocks, unsafe.Slice((*byte)(allocate(length)), length))
	}
}

// reset forgets what was taken; long blocks go.
func (a *arena) reset() {
	kept := a.blocks[:0]
	for _, block := range a.blocks {
		if len(block) > arenaBlock || len(kept) == 16 {
			release(unsafe.Pointer(&block[0]))
		} else {
			kept = append(kept, block)
		}
	}
	a.blocks, a.block, a.used = kept, 0, 0
}

func (a *arena) bytes(from []byte) unsafe.Pointer {
	if len(from) == 0 {
		return a.take(1)
	}
	to := a.take(len(from))
	copy(unsafe.Slice((*byte)(to), len(from)), from)
	return to
}

func (a *arena) text(text string) *C.char {
	to := a.take(len(text) + 1)
	bytes := unsafe.Slice((*byte)(to), len(text)+1)
	copy(bytes, text)
	bytes[len(text)] = 0
	return (*C.char)(to)
}

func (a *arena) values(count int) []C.troupe_value {
	return unsafe.Slice((*C.troupe_value)(a.take((count+1)*int(unsafe.Sizeof(C.troupe_value{})))), count)
}

// The union of a troupe_value, as what it is read and written as.
type blob struct {
	data unsafe.Pointer
	size C.size_t
}

func integerOf(v *C.troupe_value) *int64           { return (*int64)(unsafe.Pointer(&v.as)) }
func naturalOf(v *C.troupe_value) *uint64          { return (*uint64)(unsafe.Pointer(&v.as)) }
func realOf(v *C.troupe_value) *float64            { return (*float64)(unsafe.Pointer(&v.as)) }
func blobOf(v *C.troupe_value) *blob               { return (*blob)(unsafe.Pointer(&v.as)) }
func booleanOf(v *C.troupe_value) *int32           { return (*int32)(unsafe.Pointer(&v.as)) }
func tensorOf(v *C.troupe_value) **C.troupe_tensor { return (**C.troupe_tensor)(unsafe.Pointer(&v.as)) }

func (a *arena) numbers(to *C.troupe_value, dtype DType, data unsafe.Pointer, count, size int) {
	to.kind = C.TROUPE_NUMBERS
	to._type = C.int32_t(dtype)
	*blobOf(to) = blob{a.take(1), C.size_t(count * size)}
	if count > 0 {
		blobOf(to).data = a.bytes(unsafe.Slice((*byte)(data), count*size))
	}
}

func numbersOf[T any](a *arena, to *C.troupe_value, dtype DType, from []T) {
	var zero T
	var data unsafe.Pointer
	if len(from) > 0 {
		data = unsafe.Pointer(&from[0])
	}
	a.numbers(to, dtype, data, len(from), int(unsafe.Sizeof(zero)))
}

// write puts a Go value into `to`.
func (a *arena) write(to *C.troupe_value, from any) error {
	*to = C.troupe_value{}
	switch v := from.(type) {
	case nil:
	case bool:
		to.kind = C.TROUPE_BOOL
		if v {
			*booleanOf(to) = 1
		}
	case int:
		to.kind, *integerOf(to) = C.TROUPE_INT, int64(v)
	case int64:
		to.kind, *integerOf(to) = C.TROUPE_INT, v
	case uint64:
		to.kind, *naturalOf(to) = C.TROUPE_UINT, v
	case float64:
		to.kind, *realOf(to) = C.TROUPE_REAL, v
	case float32:
		to.kind, *realOf(to) = C.TROUPE_REAL, float64(v)
	case string:
		to.kind = C.TROUPE_STRING
		*blobOf(to) = blob{unsafe.Pointer(a.text(v)), C.size_t(len(v))}
	case []byte:
		to.kind = C.TROUPE_BYTES
		*blobOf(to) = blob{a.bytes(v), C.size_t(len(v))}
	case *Tensor:
		if v == nil || v.handle == nil {
			return fault(InvalidArgument, "a tensor that is nil or freed")
		}
		to.kind, *tensorOf(to) = C.TROUPE_TENSOR, v.handle
	case []float32:
		numbersOf(a, to, Float32, v)
	case []float64:
		numbersOf(a, to, Float64, v)
	case []int64:
		numbersOf(a, to, Int64, v)
	case []int32:
		numbersOf(a, to, Int32, v)
	case []uint64:
		numbersOf(a, to, UInt64, v)
	case []any:
		return a.list(to, len(v), func(i int) any { return v[i] })
	case []string:
		return a.list(to, len(v), func(i int) any { return v[i] })
	case map[string]any:
		keys := make([]string, 0, len(v))
		for key := range v {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		return a.list(to, len(v), func(i int) any { return []any{keys[i], v[keys[i]]} })
	default:
		return a.writeOther(to, reflect.ValueOf(from))
	}
	return nil
}

func (a *arena) writeOther(to *C.troupe_value, from reflect.Value) error {
	switch {
	case from.CanInt():
		to.kind, *integerOf(to) = C.TROUPE_INT, from.Int()
	case from.CanUint():
		to.kind, *naturalOf(to) = C.TROUPE_UINT, from.Uint()
	case from.Kind() == reflect.Slice:
		return a.list(to, from.Len(), func(i int) any { return from.Index(i).Interface() })
	default:
		return fault(InvalidArgument, "a value of type %s cannot be sent", from.Type())
	}
	return nil
}

func (a *arena) list(to *C.troupe_value, count int, item func(int) any) error {
	items := a.values(count)
	for i := range items {
		if err := a.write(&items[i], item(i)); err != nil {
			return err
		}
	}
	to.kind = C.TROUPE_LIST
	*blobOf(to) = blob{a.take(1), C.size_t(count)}
	if count > 0 {
		blobOf(to).data = unsafe.Pointer(&items[0])
	}
	return nil
}

func copied[T any](from blob) []T {
	var zero T
	all := make([]T, int(from.size)/int(unsafe.Sizeof(zero)))
	if len(all) > 0 {
		copy(all, unsafe.Slice((*T)(from.data), len(all)))
	}
	return all
}

// read is the value as one of Go's, which owns all of it: nil, bool, int64, uint64, float64, string, []byte, *Tensor, a
// slice of numbers, or []any.
func read(v *C.troupe_value) (any, error) {
	switch v.kind {
	case C.TROUPE_NONE:
		return nil, nil
	case C.TROUPE_BOOL:
		return *booleanOf(v) != 0, nil
	case C.TROUPE_INT:
		return *integerOf(v), nil
	case C.TROUPE_UINT:
		return *naturalOf(v), nil
	case C.TROUPE_REAL:
		return *realOf(v), nil
	case C.TROUPE_STRING:
		return string(copied[byte](*blobOf(v))), nil
	case C.TROUPE_BYTES:
		return copied[byte](*blobOf(v)), nil
	case C.TROUPE_TENSOR:
		return shareTensor(*tensorOf(v))
	case C.TROUPE_NUMBERS:
		return readNumbers(DType(v._type), *blobOf(v))
	case C.TROUPE_LIST:
		from := *blobOf(v)
		all := make([]any, int(from.size))
		if len(all) == 0 {
			return all, nil
		}
		for i, items := 0, unsafe.Slice((*C.troupe_value)(from.data), len(all)); i < len(all); i++ {
			item, err := read(&items[i])
			if err != nil {
				return nil, err
			}
			all[i] = item
		}
		return all, nil
	}
	return nil, fault(Internal, "a value of the unknown kind %d", int(v.kind))
}

func readNumbers(dtype DType, from blob) (any, error) {
	switch dtype {
	case Float32:
		return copied[float32](from), nil
	case Float64:
		return copied[float64](from), nil
	case Int8:
		return copied[int8](from), nil
	case Int16:
		return copied[int16](from), nil
	case Int32:
		return copied[int32](from), nil
	case Int64:
		return copied[int64](from), nil
	case UInt8:
		return copied[uint8](from), nil
	case UInt16:
		return copied[uint16](from), nil
	case UInt32:
		return copied[uint32](from), nil
	case UInt64:
		return copied[uint64](from), nil
	}
	return nil, fault(Internal, "numbers of the unknown type %d", int(dtype))
}

// convert makes a T of what came, if it fits.
func convert[T any](from any) (T, error) {
	var to T
	if same, ok := from.(T); ok {
		return same, nil
	}
	target := reflect.ValueOf(&to).Elem()
	value := reflect.ValueOf(from)
	if !value.IsValid() {
		switch target.Kind() {
		case reflect.Interface, reflect.Pointer, reflect.Slice, reflect.Map:
			return to, nil
		}
	} else if fits(target, value) {
		target.Set(value.Convert(target.Type()))
		return to, nil
	} else if list, ok := from.([]any); ok && target.Kind() == reflect.Slice {
		slice := reflect.MakeSlice(target.Type(), len(list), len(list))
		for i, item := range list {
			value := reflect.ValueOf(item)
			if !value.IsValid() || !fits(slice.Index(i), value) {
				return to, fault(InvalidArgument, "item %d of the result is a %T, not a %s", i, item, slice.Index(i).Type())
			}
			slice.Index(i).Set(value.Convert(slice.Index(i).Type()))
		}
		target.Set(slice)
		return to, nil
	}
	return to, fault(InvalidArgument, "the result is a %T, not a %T", from, to)
}

// fits says whether the value can be converted without a change of what it means.
func fits(target, value reflect.Value) bool {
	switch {
	case value.Type().AssignableTo(target.Type()):
		return true
	case target.CanInt() && value.CanInt():
		return !target.OverflowInt(value.Int())
	case target.CanInt() && value.CanUint():
		return value.Uint() <= 1<<63-1 && !target.OverflowInt(int64(value.Uint()))
	case target.CanUint() && value.CanUint():
		return !target.OverflowUint(value.Uint())
	case target.CanUint() && value.CanInt():
		return value.Int() >= 0 && !target.OverflowUint(uint64(value.Int()))
	case target.CanFloat() && value.CanFloat():
		return true
	}
	return false
}

// free gives all of it back.
func (a *arena) free() {
	for _, block := range a.blocks {
		release(unsafe.Pointer(&block[0]))
	}
	*a = arena{}
}
