"""OpenFlow controllers for tests, on os-ken; each is run as a program."""
