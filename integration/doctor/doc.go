// Package doctor provokes what `floe doctor` finds, on real agents, etcd and MinIO, and sees that a
// cluster without trouble has no findings. It has no code outside its tests, which need the build tag
// integration.
package doctor
