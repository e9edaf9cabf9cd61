// Package ext stands for Traefik's package of this name, which is no module on the module proxy: the place of what others
// add to a router, where nobody adds anything.
package ext

// HTTP is what is added to a router's HTTP options.
type HTTP struct{}

// Router is what is added to a router.
type Router struct{}
