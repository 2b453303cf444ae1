message(STATUS "install soon")
