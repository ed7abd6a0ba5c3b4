"""Virtual machines by vhost-user: the port, its protocol, its virtqueues; and what the guest's side shares of those."""
