"""Write, lock and digest files safely."""
