module troupe

go 1.19
