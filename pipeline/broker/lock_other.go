//go:build !unix

package broker

import "errors"

func tryLock(string, bool) (func(), error) {
	return nil, errors.New("the embedded broker needs file locks of a Unix system")
}
